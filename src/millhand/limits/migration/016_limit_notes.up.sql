-- A line for people, such as why the limit is as it is.
ALTER TABLE /* schema */millhand_limit
    ADD COLUMN note text;
