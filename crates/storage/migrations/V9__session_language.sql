-- What is spoken in streams of the session that do not say (BCP 47 or 'auto'); NULL for what the workers are set to.
ALTER TABLE sessions ADD COLUMN language text;
