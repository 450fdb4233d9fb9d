CREATE TABLE authors (
	id integer PRIMARY KEY,
	name text NOT NULL UNIQUE,
	bio text,
	details text NOT NULL
);
