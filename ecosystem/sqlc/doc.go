// Package sqlc has in the packages below it the code that sqlc generates for each database.
package sqlc

//go:generate env CGO_ENABLED=0 go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate
