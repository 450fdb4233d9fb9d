-- name: CreateAuthor :execlastid
INSERT INTO authors (name, bio, details) VALUES (?, ?, ?);

-- name: GetAuthor :one
SELECT * FROM authors WHERE name = ?;

-- name: ListAuthors :many
SELECT * FROM authors WHERE id IN (sqlc.slice(ids)) ORDER BY name;

-- name: UpsertAuthor :execrows
INSERT INTO authors (name, bio, details) VALUES (?, ?, '{}') ON DUPLICATE KEY UPDATE bio = VALUES(bio);

-- name: DeleteAuthor :exec
DELETE FROM authors WHERE id = ?;
