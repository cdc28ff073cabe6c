-- Rows of settings were remembered by the ids of their users, who can be erased; they are remembered by a digest now. An
-- import that is repeated brings these settings once more.
DELETE FROM imported WHERE kind = 'settings';
