-- name: CreateAuthor :one
INSERT INTO authors (name, bio, mood, tags, details) VALUES ($1, $2, $3, $4, $5) RETURNING *;

-- name: GetAuthor :one
SELECT * FROM authors WHERE name = $1;

-- name: ListAuthors :many
SELECT * FROM authors WHERE id = ANY(sqlc.arg(ids)::bigint[]) ORDER BY name;

-- name: TaggedAuthors :many
SELECT name FROM authors WHERE sqlc.arg(tag)::text = ANY(tags) ORDER BY name;

-- name: UpsertAuthor :execrows
INSERT INTO authors (name, bio) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET bio = EXCLUDED.bio;

-- name: CreateBooks :exec
INSERT INTO books (author_id, title, price)
SELECT unnest(sqlc.arg(author_ids)::bigint[]), unnest(sqlc.arg(titles)::text[]), unnest(sqlc.arg(prices)::numeric[]);

-- name: AuthorsWithBooks :many
SELECT sqlc.embed(authors), count(books.id) AS books, coalesce(sum(books.price), 0)::float8 AS total
FROM authors LEFT JOIN books ON books.author_id = authors.id
WHERE sqlc.narg(mood)::mood IS NULL OR authors.mood = sqlc.narg(mood)
GROUP BY authors.id ORDER BY authors.id;

-- name: DeleteAuthor :exec
DELETE FROM authors WHERE id = $1;
