package ecosystem

import (
	"database/sql"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/ecosystem/sqlc/mysqlqueries"
	"github.com/go-lifeguard/lifeguard/ecosystem/sqlc/pgqueries"
	"github.com/go-lifeguard/lifeguard/ecosystem/sqlc/sqlitequeries"
)

//go:embed sqlc/postgres_schema.sql
var pgSchema string

//go:embed sqlc/mysql_schema.sql
var mysqlSchema string

//go:embed sqlc/sqlite_schema.sql
var sqliteSchema string

// schema makes the tables of a file, whose statements end with a semicolon at the end of a line.
func (s *stage) schema(text string) {
	for _, statement := range strings.Split(text, ";\n") {
		if statement = strings.TrimSpace(statement); statement != "" {
			s.exec(statement)
		}
	}
}

func TestSQLCOnPostgreSQL(t *testing.T) {
	run(t, 2, postgresServers, func(s *stage) {
		ctx := s.Context()
		s.schema(pgSchema)
		queries := pgqueries.New(s.db)
		var ids []int64
		for n := range 5 {
			author, err := queries.CreateAuthor(ctx, pgqueries.CreateAuthorParams{
				Name: fmt.Sprint("author ", n), Bio: sql.NullString{String: "bio", Valid: n%2 == 0},
				Mood: []pgqueries.Mood{pgqueries.MoodHappy, pgqueries.MoodSad}[n%2],
				Tags: []string{"all", fmt.Sprint("tag ", n%3)}, Details: json.RawMessage(`{"n": [1, 2]}`),
			})
			s.must(err)
			s.see("created", author)
			ids = append(ids, author.ID)
		}
		_, err := queries.CreateAuthor(ctx, pgqueries.CreateAuthorParams{Name: "author 1", Mood: "angry", Details: json.RawMessage("{}")})
		s.fails("a mood that there is not", err)
		_, err = queries.GetAuthor(ctx, "nobody")
		s.fails("nobody", err)
		listed, err := queries.ListAuthors(ctx, ids[1:3])
		s.must(err)
		s.see("listed", listed)
		tagged, err := queries.TaggedAuthors(ctx, "tag 1")
		s.must(err)
		s.see("tagged", tagged)

		tx, err := s.db.BeginTx(ctx, nil)
		s.must(err)
		in := queries.WithTx(tx)
		s.must(in.CreateBooks(ctx, pgqueries.CreateBooksParams{AuthorIds: []int64{ids[0], ids[0], ids[1]},
			Titles: []string{"one", `the "second"`, "three"}, Prices: []string{"1.50", "2.25", "100"}}))
		s.fails("an author with books", in.DeleteAuthor(ctx, ids[0]))
		s.must(tx.Rollback())
		s.must(queries.CreateBooks(ctx, pgqueries.CreateBooksParams{AuthorIds: ids[:2], Titles: []string{"a", "b"}, Prices: []string{"1", "2"}}))
		for _, mood := range []pgqueries.NullMood{{}, {Mood: pgqueries.MoodSad, Valid: true}} {
			books, err := queries.AuthorsWithBooks(ctx, mood)
			s.must(err)
			s.see("with books", books)
		}
	})
}

// Prepare keeps every query as a statement of database/sql.
func TestSQLCPrepared(t *testing.T) {
	run(t, 2, postgresServers, func(s *stage) {
		ctx := s.Context()
		s.schema(pgSchema)
		queries, err := pgqueries.Prepare(ctx, s.db)
		s.must(err)
		defer func() { s.must(queries.Close()) }()
		for n := range 3 {
			rows, err := queries.UpsertAuthor(ctx, pgqueries.UpsertAuthorParams{Name: "same", Bio: sql.NullString{String: fmt.Sprint(n), Valid: true}})
			s.must(err)
			s.see("upserted", rows)
		}
		tx, err := s.db.BeginTx(ctx, nil)
		s.must(err)
		author, err := queries.WithTx(tx).GetAuthor(ctx, "same")
		s.must(err)
		s.see("in a transaction", author)
		other, err := queries.GetAuthor(ctx, "same") // beside it
		s.must(err)
		s.see("beside it", other)
		s.must(tx.Commit())
		s.exec("ALTER TABLE authors ADD COLUMN more int")
		_, err = queries.UpsertAuthor(ctx, pgqueries.UpsertAuthorParams{Name: "after DDL"})
		s.must(err)
	})
}

func TestSQLCOnMariaDB(t *testing.T) {
	run(t, 2, []*server{onMariaDB}, func(s *stage) {
		ctx := s.Context()
		s.schema(mysqlSchema)
		queries := mysqlqueries.New(s.db)
		id, err := queries.CreateAuthor(ctx, mysqlqueries.CreateAuthorParams{Name: "first", Details: json.RawMessage(`{"n": 1}`)})
		s.must(err)
		for range 2 {
			rows, err := queries.UpsertAuthor(ctx, mysqlqueries.UpsertAuthorParams{Name: "second", Bio: sql.NullString{String: "bio", Valid: true}})
			s.must(err)
			s.see("upserted", rows)
		}
		listed, err := queries.ListAuthors(ctx, []int64{id, id + 1, 99})
		s.must(err)
		s.see("listed", listed)
		tx, err := s.db.BeginTx(ctx, nil)
		s.must(err)
		s.must(queries.WithTx(tx).DeleteAuthor(ctx, id))
		_, err = queries.WithTx(tx).GetAuthor(ctx, "first")
		s.fails("deleted in the transaction", err)
		s.must(tx.Rollback())
		author, err := queries.GetAuthor(ctx, "first")
		s.must(err)
		s.see("after the rollback", author)
	})
}

func TestSQLCOnSQLite(t *testing.T) {
	run(t, 2, []*server{onSQLite}, func(s *stage) {
		ctx := s.Context()
		s.schema(sqliteSchema)
		queries := sqlitequeries.New(s.db)
		author, err := queries.CreateAuthor(ctx, sqlitequeries.CreateAuthorParams{Name: "first", Details: `{"n": 1}`})
		s.must(err)
		rows, err := queries.UpsertAuthor(ctx, sqlitequeries.UpsertAuthorParams{Name: "first", Bio: sql.NullString{String: "bio", Valid: true}})
		s.must(err)
		s.see("upserted", rows)
		listed, err := queries.ListAuthors(ctx, []int64{author.ID, 99})
		s.must(err)
		s.see("listed", listed)
		s.must(queries.DeleteAuthor(ctx, author.ID))
		_, err = queries.GetAuthor(ctx, "first")
		s.fails("deleted", err)
	})
}
