-- name: CreateAuthor :one
INSERT INTO authors (name, bio, details) VALUES (?, ?, ?) RETURNING *;

-- name: GetAuthor :one
SELECT * FROM authors WHERE name = ?;

-- name: ListAuthors :many
SELECT * FROM authors WHERE id IN (sqlc.slice('ids')) ORDER BY name;

-- name: UpsertAuthor :execrows
INSERT INTO authors (name, bio, details) VALUES (?, ?, '{}') ON CONFLICT (name) DO UPDATE SET bio = excluded.bio;

-- name: DeleteAuthor :exec
DELETE FROM authors WHERE id = ?;
