package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/migrate"
	"github.com/uptrace/bun/schema"
)

type bunAuthor struct {
	bun.BaseModel `bun:"table:authors,alias:author"`

	ID      int64          `bun:",pk,autoincrement"`
	Name    string         `bun:",notnull,unique,type:varchar(50)"`
	Born    time.Time      `bun:",notnull"`
	Details map[string]any `bun:"type:json"`
	Updated int            `bun:",notnull"`
	Books   []*bunBook     `bun:"rel:has-many,join:id=author_id"`
	found   bool
}

type bunBook struct {
	bun.BaseModel `bun:"table:books,alias:book"`

	ID       int64      `bun:",pk,autoincrement"`
	AuthorID int64      `bun:",notnull"`
	Author   *bunAuthor `bun:"rel:belongs-to,join:author_id=id" json:",omitempty"`
	Title    string     `bun:",notnull,type:varchar(50)"`
	Tags     []*bunTag  `bun:"m2m:book_tags,join:Book=Tag"`
}

type bunTag struct {
	bun.BaseModel `bun:"table:tags,alias:tag"`

	ID   int64  `bun:",pk,autoincrement"`
	Name string `bun:",type:varchar(50)"`
}

type bunBookTag struct {
	bun.BaseModel `bun:"table:book_tags"`

	BookID int64    `bun:",pk"`
	Book   *bunBook `bun:"rel:belongs-to,join:book_id=id"`
	TagID  int64    `bun:",pk"`
	Tag    *bunTag  `bun:"rel:belongs-to,join:tag_id=id"`
}

var (
	_ bun.BeforeAppendModelHook = (*bunAuthor)(nil)
	_ bun.AfterScanRowHook      = (*bunAuthor)(nil)
)

func (a *bunAuthor) BeforeAppendModel(_ context.Context, query bun.Query) error {
	if _, ok := query.(*bun.UpdateQuery); ok {
		a.Updated++
	}
	if a.Name == "refused" {
		return errors.New("refused by a hook")
	}
	return nil
}

func (a *bunAuthor) AfterScanRow(context.Context) error {
	a.found, a.Born = true, a.Born.UTC()
	return nil
}

// A queryCounter sees bun's queries, some of which run side by side.
type queryCounter struct {
	bun.QueryHook
	mu     sync.Mutex
	counts map[string]int // guarded by mu
}

func (c *queryCounter) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

func (c *queryCounter) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[e.Operation()]++
}

func (s *stage) bun() *bun.DB {
	dialect := map[string]func() schema.Dialect{
		postgresSQL: func() schema.Dialect { return pgdialect.New() },
		mysqlSQL:    func() schema.Dialect { return mysqldialect.New() },
		sqliteSQL:   func() schema.Dialect { return sqlitedialect.New() },
	}[s.dialect]
	db := bun.NewDB(s.db, dialect())
	db.RegisterModel((*bunBookTag)(nil))
	for _, model := range []any{(*bunAuthor)(nil), (*bunBook)(nil), (*bunTag)(nil), (*bunBookTag)(nil)} {
		_, err := db.NewCreateTable().Model(model).Exec(s.Context())
		s.must(err)
	}
	return db
}

func bunAuthors(n int) (authors []*bunAuthor) {
	for i := range n {
		authors = append(authors, &bunAuthor{Name: fmt.Sprint("author ", i), Born: time.Date(1900+i%90, 5, 1, 10, 0, 0, 0, time.UTC),
			Details: map[string]any{"n": i, "quoted": `it's "so"`}})
	}
	return authors
}

func TestBun(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db, ctx := s.bun(), s.Context()
		counter := &queryCounter{counts: map[string]int{}}
		db = db.WithQueryHook(counter)
		authors := bunAuthors(40)
		_, err := db.NewInsert().Model(&authors).Exec(ctx)
		s.must(err)
		var books []*bunBook
		for i, a := range authors[:10] {
			for k := range i % 4 {
				books = append(books, &bunBook{AuthorID: a.ID, Title: fmt.Sprintf("book %d of %s", k, a.Name)})
			}
		}
		_, err = db.NewInsert().Model(&books).Exec(ctx)
		s.must(err)
		tags := []*bunTag{{Name: "new"}, {Name: "old"}}
		_, err = db.NewInsert().Model(&tags).Exec(ctx)
		s.must(err)
		_, err = db.NewInsert().Model(&[]bunBookTag{{BookID: books[0].ID, TagID: tags[0].ID}, {BookID: books[0].ID, TagID: tags[1].ID}}).Exec(ctx)
		s.must(err)
		_, err = db.NewInsert().Model(&bunAuthor{Name: "refused"}).Exec(ctx)
		s.fails("refused by a hook", err)
		_, err = db.NewInsert().Model(&bunAuthor{Name: "author 1"}).Exec(ctx)
		s.fails("a duplicate", err)

		var found []*bunAuthor
		s.must(db.NewSelect().Model(&found).Relation("Books", func(q *bun.SelectQuery) *bun.SelectQuery { return q.Order("book.id") }).
			Relation("Books.Tags").Where("author.id < ?", 5).Order("author.id").Scan(ctx))
		for _, a := range found {
			assert.True(s, a.found, "AfterScanRow")
			s.see("author", a)
		}
		var titles []bunBook
		n, err := db.NewSelect().Model(&titles).Relation("Author").Where("author.name IN (?)", bun.List([]string{"author 1", "author 3"})).
			Order("book.id").Limit(2).ScanAndCount(ctx)
		s.must(err)
		s.see("count", n)
		for _, book := range titles {
			s.see("book", []any{book.Title, book.Author.Name})
		}
		var names []string
		busy := db.NewSelect().Model((*bunBook)(nil)).Column("author_id").Group("author_id").Having("count(*) > 2")
		s.must(db.NewSelect().With("busy", busy).Model((*bunAuthor)(nil)).Column("name").
			Where("id IN (SELECT author_id FROM busy)").Order("name").Scan(ctx, &names))
		s.see("busy", names)
		s.fails("nobody", db.NewSelect().Model(&bunAuthor{}).Where("id = -1").Scan(ctx))
		_, err = db.NewUpdate().Model(found[0]).WherePK().Exec(ctx)
		s.must(err)
		result, err := db.NewDelete().Model((*bunBook)(nil)).Where("title LIKE ?", "book 0%").Exec(ctx)
		s.must(err)
		deleted, err := result.RowsAffected()
		s.must(err)
		s.see("deleted", deleted)
		s.see("queries", counter.counts)
	})
}

func TestBunOnConflict(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		db, ctx := s.bun(), s.Context()
		authors := bunAuthors(3)
		_, err := db.NewInsert().Model(&authors).Exec(ctx)
		s.must(err)
		for i, a := range bunAuthors(5) {
			a.Updated = 10 * i
			insert := db.NewInsert().Model(a).On("CONFLICT (name) DO UPDATE").Set("updated = EXCLUDED.updated")
			if s.dialect == mysqlSQL {
				insert = db.NewInsert().Model(a).On("DUPLICATE KEY UPDATE").Set("updated = VALUES(updated)")
			}
			_, err := insert.Exec(ctx)
			s.must(err)
		}
		_, err = db.NewInsert().Model(&bunAuthor{Name: "author 0"}).Ignore().Exec(ctx)
		s.must(err)
		var all []bunAuthor
		s.must(db.NewSelect().Model(&all).Order("name").Scan(ctx))
		for _, a := range all {
			s.see("author", []any{a.Name, a.Updated})
		}
	})
}

func TestBunTransactions(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		db, ctx := s.bun(), s.Context()
		create := func(ctx context.Context, db bun.IDB, name string) error {
			_, err := db.NewInsert().Model(&bunAuthor{Name: name, Born: time.Unix(0, 0)}).Exec(ctx)
			return err
		}
		undo := errors.New("undo")
		s.must(db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			s.must(create(ctx, tx, "outer"))
			assert.ErrorIs(s, tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { // a savepoint
				s.must(create(ctx, tx, "inner, undone"))
				return undo
			}), undo)
			s.fails("a duplicate in a savepoint", tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				return create(ctx, tx, "outer")
			}))
			return tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { return create(ctx, tx, "inner, kept") })
		}))
		names := func(what string) {
			var names []string
			s.must(db.NewSelect().Model((*bunAuthor)(nil)).Column("name").Order("name").Scan(ctx, &names))
			s.see(what, names)
		}
		names("nested")
		assert.Panics(s, func() {
			_ = db.RunInTx(ctx, &sql.TxOptions{}, func(ctx context.Context, tx bun.Tx) error {
				s.must(create(ctx, tx, "panicking"))
				panic("in a transaction")
			})
		})
		names("after a panic")
		conn, err := db.Conn(ctx)
		s.must(err)
		s.must(create(ctx, conn, "on a connection"))
		s.must(conn.Close())
		names("at the end")
	})
}

func TestBunStreams(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db, ctx := s.bun(), s.Context()
		authors := bunAuthors(500)
		_, err := db.NewInsert().Model(&authors).Exec(ctx)
		s.must(err)
		rows, err := db.NewSelect().Model((*bunAuthor)(nil)).Order("id").Rows(ctx)
		s.must(err)
		years := 0
		for rows.Next() {
			var a bunAuthor
			s.must(db.ScanRow(ctx, rows, &a))
			if years += a.Born.Year(); a.ID%100 == 0 {
				_, err := db.NewUpdate().Model(&a).WherePK().Exec(ctx)
				s.must(err)
			}
		}
		s.must(rows.Err())
		s.must(rows.Close())
		s.see("years", years)
		n, err := db.NewSelect().Model((*bunAuthor)(nil)).Where("updated > 0").Count(ctx)
		s.must(err)
		s.see("updated", n)
	})
}

func TestBunArrays(t *testing.T) {
	type listed struct {
		ID   int64             `bun:",pk,autoincrement"`
		Tags []string          `bun:",array"`
		Data map[string]string `bun:"type:jsonb"`
		More map[string]string `bun:"type:hstore,nullzero" json:"-"`
	}
	run(t, 1, postgresServers, func(s *stage) {
		db, ctx := bun.NewDB(s.db, pgdialect.New()), s.Context()
		s.exec("CREATE TABLE listeds (id bigserial PRIMARY KEY, tags text[], data jsonb, more text)")
		_, err := db.NewInsert().Model(&[]listed{
			{Tags: []string{"a", `b "quoted", and \`, "it's"}, Data: map[string]string{"k": "v"}},
			{Tags: []string{}},
		}).Exec(ctx)
		s.must(err)
		var all []listed
		s.must(db.NewSelect().Model(&all).ExcludeColumn("more").Order("id").Scan(ctx))
		s.see("all", all)
		s.must(db.NewSelect().Model(&all).ExcludeColumn("more").Where("tags @> ?", pgdialect.Array([]string{"a"})).
			Where("data ->> 'k' = ?", "v").Scan(ctx))
		s.see("found", all)
	})
}

// bun's migrations take their lock as a row of a table, and hold no connection for it.
func TestBunMigrations(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		db, ctx := s.bun(), s.Context()
		all := migrate.NewMigrations()
		s.must(all.Discover(files(map[string]string{
			"20260101000000_years.up.sql":   "ALTER TABLE authors ADD COLUMN died int;\n--bun:split\nUPDATE authors SET died = 2000;",
			"20260101000000_years.down.sql": "ALTER TABLE authors DROP COLUMN died;",
		})))
		all.Add(migrate.Migration{Name: "20260102000000", Comment: "in_go",
			Up: func(ctx context.Context, _ *migrate.Migrator, _ *migrate.Migration) error {
				_, err := db.NewInsert().Model(&bunAuthor{Name: "in Go", Born: time.Unix(0, 0)}).Exec(ctx)
				return err
			},
			Down: func(context.Context, *migrate.Migrator, *migrate.Migration) error { return nil },
		})
		migrator := migrate.NewMigrator(db, all)
		s.must(migrator.Init(ctx))
		s.must(migrator.Lock(ctx))
		s.fails("a second lock", migrator.Lock(ctx))
		group, err := migrator.Migrate(ctx)
		s.must(err)
		s.see("migrated", strings.Fields(group.Migrations.String()))
		s.must(migrator.Unlock(ctx))
		group, err = migrator.Rollback(ctx)
		s.must(err)
		s.see("rolled back", strings.Fields(group.Migrations.String()))
	})
}

func TestBunHandleInTransaction(t *testing.T) {
	timeout := culprits(t, onPQ, 1, func(s *stage) error {
		db := s.bun()
		return db.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewInsert().Model(&bunTag{Name: "a"}).Exec(ctx)
			s.must(err)
			_, err = db.NewInsert().Model(&bunTag{Name: "b"}).Exec(ctx) // db, not tx
			return err
		})
	})
	require.Len(t, timeout.Holders, 1)
	assert.Contains(t, timeout.Error(), "TestBunHandleInTransaction")
}
