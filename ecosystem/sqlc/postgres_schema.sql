CREATE TYPE mood AS ENUM ('happy', 'sad');

CREATE TABLE authors (
	id bigserial PRIMARY KEY,
	name text NOT NULL UNIQUE,
	bio text,
	mood mood NOT NULL DEFAULT 'happy',
	tags text[] NOT NULL DEFAULT '{}',
	details jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE books (
	id bigserial PRIMARY KEY,
	author_id bigint NOT NULL REFERENCES authors (id),
	title text NOT NULL,
	price numeric(10, 2) NOT NULL
);
