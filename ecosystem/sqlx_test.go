package ecosystem

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A payload is kept as JSON.
type payload map[string]any

func (p *payload) Scan(src any) error {
	switch src := src.(type) {
	case []byte:
		return json.Unmarshal(src, p)
	case string:
		return json.Unmarshal([]byte(src), p)
	}
	return fmt.Errorf("a payload is text, got %T", src)
}

type sqlxPerson struct {
	ID      int64          `db:"id"`
	Name    string         `db:"name"`
	Email   string         `db:"email"`
	Age     sql.NullInt64  `db:"age"`
	Born    time.Time      `db:"born"`
	Details payload        `db:"details"`
	Note    sql.NullString `db:"note"`
}

func (s *stage) sqlxTables() *sqlx.DB {
	s.exec(s.sql(
		`CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, age int, born date NOT NULL,
			details jsonb NOT NULL DEFAULT '{}', note text)`,
		`CREATE TABLE people (id bigint PRIMARY KEY, name varchar(50) NOT NULL, email varchar(50) NOT NULL UNIQUE, age int,
			born date NOT NULL, details json NOT NULL DEFAULT '{}', note text)`,
		`CREATE TABLE people (id integer PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, age integer,
			born date NOT NULL, details text NOT NULL DEFAULT '{}', note text)`))
	return sqlx.NewDb(s.db, s.driver)
}

func sqlxPeople(n int) (people []sqlxPerson) {
	for i := range int64(n) {
		people = append(people, sqlxPerson{ID: i + 1, Name: fmt.Sprint("name ", i), Email: fmt.Sprintf("%d@example.org", i),
			Age: sql.NullInt64{Int64: 20 + i%50, Valid: i%3 != 0}, Born: time.Date(1980, 1, 1+int(i%300), 0, 0, 0, 0, time.UTC)})
	}
	return people
}

const sqlxInsert = "INSERT INTO people (id, name, email, age, born) VALUES (:id, :name, :email, :age, :born)"

func TestSQLX(t *testing.T) {
	run(t, 3, allServers, func(s *stage) {
		db, ctx := s.sqlxTables(), s.Context()
		inserted, err := db.NamedExecContext(ctx, sqlxInsert, sqlxPeople(100))
		s.must(err)
		n, err := inserted.RowsAffected()
		s.must(err)
		s.see("a batch", n)
		_, err = db.NamedExecContext(ctx, sqlxInsert, sqlxPeople(1))
		s.fails("the same again", err)

		var people []sqlxPerson
		s.must(db.SelectContext(ctx, &people, db.Rebind("SELECT * FROM people WHERE id <= ? ORDER BY id"), 5))
		s.see("Select", people)
		var one sqlxPerson
		s.must(db.GetContext(ctx, &one, db.Rebind("SELECT * FROM people WHERE email = ?"), "7@example.org"))
		s.see("Get", one)
		s.fails("Get of nobody", db.GetContext(ctx, &one, db.Rebind("SELECT * FROM people WHERE id = ?"), -1))
		var missing struct{ ID int64 }
		s.fails("Get of too few fields", db.GetContext(ctx, &missing, "SELECT id, name FROM people ORDER BY id LIMIT 1"))

		query, args, err := sqlx.In("SELECT id FROM people WHERE id IN (?) AND name <> ? ORDER BY id", []int64{3, 1, 4, 15}, "name 2")
		s.must(err)
		var ids []int64
		s.must(db.SelectContext(ctx, &ids, db.Rebind(query), args...))
		s.see("In", ids)

		named, err := db.NamedQueryContext(ctx, "SELECT id, name, age, note FROM people WHERE id BETWEEN :from AND :to ORDER BY id",
			map[string]any{"from": 10, "to": 12})
		s.must(err)
		for named.Next() {
			row, err := named.SliceScan()
			s.must(err)
			for i := range row {
				if text, ok := row[i].([]byte); ok {
					row[i] = string(text)
				}
			}
			s.see("NamedQuery", row)
		}
		s.must(named.Err())

		_, err = db.NamedExecContext(ctx, "UPDATE people SET details = :details WHERE id = :id",
			map[string]any{"details": `{"tags": ["a", "b"], "n": 1.5}`, "id": 2})
		s.must(err)
		s.must(db.GetContext(ctx, &one, "SELECT * FROM people WHERE id = 2"))
		s.see("JSON", one.Details)
	})
}

// Prepared statements, and their use in transactions.
func TestSQLXStatements(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db, ctx := s.sqlxTables(), s.Context()
		insert, err := db.PrepareNamedContext(ctx, sqlxInsert)
		s.must(err)
		defer insert.Close()
		find, err := db.PreparexContext(ctx, db.Rebind("SELECT name FROM people WHERE id = ?"))
		s.must(err)
		defer find.Close()

		names := func(what string, find *sqlx.Stmt) {
			var names []string
			s.must(find.SelectContext(ctx, &names, 1))
			s.must(find.SelectContext(ctx, &names, 2))
			s.see(what, names)
		}
		people := sqlxPeople(2)
		tx, err := db.BeginTxx(ctx, nil)
		s.must(err)
		for _, p := range people {
			_, err := tx.NamedStmtContext(ctx, insert).ExecContext(ctx, p)
			s.must(err)
		}
		names("inside", tx.StmtxContext(ctx, find))
		names("outside", find)
		s.must(tx.Commit())
		names("after the commit", find)
		_, err = insert.ExecContext(ctx, people[0])
		s.fails("a second time", err)
		names("after an error", find)
		s.fails("a statement of a transaction that ended", func() error {
			_, err := tx.NamedStmtContext(ctx, insert).ExecContext(ctx, people[0])
			return err
		}())
	})
}

func TestSQLXTransactions(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db, ctx := s.sqlxTables(), s.Context()
		count := func(what string) {
			var n int
			s.must(db.GetContext(ctx, &n, "SELECT count(*) FROM people"))
			s.see(what, n)
		}
		people := sqlxPeople(3)
		tx, err := db.BeginTxx(ctx, nil)
		s.must(err)
		_, err = tx.NamedExecContext(ctx, sqlxInsert, people[0])
		s.must(err)
		tx.MustExecContext(ctx, "SAVEPOINT again")
		_, err = tx.NamedExecContext(ctx, sqlxInsert, people[0])
		s.fails("twice", err)
		tx.MustExecContext(ctx, "ROLLBACK TO SAVEPOINT again")
		_, err = tx.NamedExecContext(ctx, sqlxInsert, people[1])
		s.must(err)
		count("before the commit")
		s.must(tx.Commit())
		s.fails("Rollback after Commit", tx.Rollback())
		count("after the commit")

		canceled, cancel := context.WithCancel(ctx)
		tx, err = db.BeginTxx(canceled, nil)
		s.must(err)
		_, err = tx.NamedExecContext(canceled, sqlxInsert, people[2])
		s.must(err)
		cancel()
		assert.Error(s, tx.Commit())       // the end of the context, or of the transaction, whichever database/sql sees first
		assert.Eventually(s, func() bool { // database/sql rolls back on a goroutine of its own
			return s.db.Stats().InUse == 0
		}, 10*time.Second, time.Millisecond)
		count("after that")

		if s.dialect == sqliteSQL {
			return // modernc.org/sqlite has neither
		}
		tx, err = db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
		s.must(err)
		_, err = tx.NamedExecContext(ctx, sqlxInsert, people[2])
		s.fails("a write in a transaction that only reads", err)
		s.must(tx.Rollback())
		count("after that too")
	})
}

// A result is read row by row, while other statements run and after the reader has lost interest.
func TestSQLXStreams(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db, ctx := s.sqlxTables(), s.Context()
		const all = 3000
		for people := sqlxPeople(all); len(people) > 0; people = people[500:] {
			_, err := db.NamedExecContext(ctx, sqlxInsert, people[:500])
			s.must(err)
		}
		rows, err := db.QueryxContext(ctx, "SELECT * FROM people ORDER BY id")
		s.must(err)
		sum, updated := int64(0), 0
		for rows.Next() {
			var p sqlxPerson
			s.must(rows.StructScan(&p))
			if sum += p.Age.Int64; p.ID%1000 == 0 {
				_, err := db.ExecContext(ctx, db.Rebind("UPDATE people SET note = ? WHERE id = ?"), "seen", p.ID)
				s.must(err)
				updated++
			}
		}
		s.must(rows.Err())
		s.see("all", []any{sum, updated})

		rows, err = db.QueryxContext(ctx, "SELECT * FROM people ORDER BY id")
		s.must(err)
		require.True(s, rows.Next())
		found := map[string]any{}
		s.must(rows.MapScan(found))
		s.see("the first id", found["id"])
		s.must(rows.Close())
		s.see("after Close", rows.Next())

		canceled, cancel := context.WithCancel(ctx)
		rows, err = db.QueryxContext(canceled, "SELECT a.id FROM people a CROSS JOIN people b")
		s.must(err)
		require.True(s, rows.Next())
		cancel()
		for rows.Next() {
		}
		assert.Eventually(s, func() bool { // the driver may see it before database/sql does
			return errors.Is(rows.Err(), context.Canceled)
		}, 10*time.Second, time.Millisecond)
		s.must(rows.Close())
		var n int
		s.must(db.GetContext(ctx, &n, "SELECT count(*) FROM people WHERE note = 'seen'"))
		s.see("after that", n)
	})
}

func TestSQLXArrays(t *testing.T) {
	run(t, 2, postgresServers, func(s *stage) {
		db, ctx := sqlx.NewDb(s.db, s.driver), s.Context()
		s.exec("CREATE TABLE tagged (id int PRIMARY KEY, tags text[] NOT NULL, scores float8[])")
		type tagged struct {
			ID     int
			Tags   pq.StringArray
			Scores pq.Float64Array
		}
		_, err := db.NamedExecContext(ctx, "INSERT INTO tagged (id, tags, scores) VALUES (:id, :tags, :scores)", []tagged{
			{1, pq.StringArray{"plain", `with "quotes", commas and \`, ""}, pq.Float64Array{1.5, -2}},
			{2, pq.StringArray{}, nil},
		})
		s.must(err)
		var all []tagged
		s.must(db.SelectContext(ctx, &all, "SELECT * FROM tagged WHERE id = ANY($1) ORDER BY id", pq.Array([]int{1, 2, 3})))
		s.see("arrays", all)
		s.must(db.SelectContext(ctx, &all, "SELECT * FROM tagged WHERE $1 = ANY(tags)", "plain"))
		s.see("in an array", all)
	})
}

// With the driver's name "lifeguard" sqlx has to be told of the placeholders.
func TestSQLXBindDriver(t *testing.T) {
	dsn := onPQ.fresh(t) + "&connection_limit=1"
	open := func() *sqlx.DB {
		db, err := sqlx.ConnectContext(t.Context(), "lifeguard", dsn)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db
	}
	number := func(db *sqlx.DB) (n int, err error) {
		rows, err := db.NamedQueryContext(t.Context(), "SELECT CAST(:n AS int)", map[string]any{"n": 7})
		if err != nil {
			return 0, err
		}
		rows.Next()
		return n, errors.Join(rows.Scan(&n), rows.Close())
	}
	_, err := number(open())
	require.ErrorContains(t, err, `syntax error`, "sqlx knows the driver: the line in docs/libraries.md is not needed")
	sqlx.BindDriver("lifeguard", sqlx.DOLLAR)
	n, err := number(open())
	require.NoError(t, err)
	assert.Equal(t, 7, n)
}
