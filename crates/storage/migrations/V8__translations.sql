-- Translations of finals. A row is written with its final, in one transaction, and says what is wanted; later, once, what became
-- of it.
CREATE TABLE translations (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id uuid        NOT NULL,
    -- The sequence of the final.
    segment    bigint      NOT NULL,
    -- BCP 47, as it was asked for.
    language   text        NOT NULL,
    -- Its own place in the session's topic, once it is known what became of it: a text, or why there is none.
    sequence   bigint,
    text       text,
    failure    text,
    wanted_at  timestamptz NOT NULL,
    told_at    timestamptz,
    -- Until then somebody works on it, or nobody tries again.
    held_until timestamptz NOT NULL DEFAULT '-infinity',
    UNIQUE (session_id, segment, language),
    FOREIGN KEY (session_id, segment) REFERENCES segments (session_id, sequence) ON DELETE CASCADE,
    CHECK (CASE WHEN sequence IS NULL THEN text IS NULL AND failure IS NULL AND told_at IS NULL
                ELSE (text IS NULL) <> (failure IS NULL) AND told_at IS NOT NULL END)
);
CREATE UNIQUE INDEX translations_by_sequence ON translations (session_id, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX translations_wanted ON translations (wanted_at, id) WHERE sequence IS NULL;
