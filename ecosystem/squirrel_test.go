package ecosystem

import (
	"fmt"
	"testing"

	"github.com/Masterminds/squirrel"
)

func TestSquirrel(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		ctx := s.Context()
		s.exec("CREATE TABLE items (id int PRIMARY KEY, name varchar(50) NOT NULL UNIQUE, price int, parent int)")
		placeholders := squirrel.PlaceholderFormat(squirrel.Question)
		if s.dialect == postgresSQL {
			placeholders = squirrel.Dollar
		}
		build := squirrel.StatementBuilder.PlaceholderFormat(placeholders).RunWith(s.db)

		insert := build.Insert("items").Columns("id", "name", "price", "parent")
		for id := range 50 {
			insert = insert.Values(id, fmt.Sprint("item ", id), squirrel.Expr("3 * ?", id), id/5)
		}
		inserted, err := insert.ExecContext(ctx)
		s.must(err)
		n, err := inserted.RowsAffected()
		s.must(err)
		s.see("inserted", n)
		_, err = build.Insert("items").Columns("id", "name").Values(1, "another").ExecContext(ctx)
		s.fails("a second of an id", err)

		rows, err := build.Select("parent", "count(*)", "sum(price)").From("items").
			Where(squirrel.Or{squirrel.Lt{"id": 20}, squirrel.Eq{"name": []string{"item 30", "item 31"}}}).
			Where(squirrel.NotEq{"parent": nil}).GroupBy("parent").Having("count(*) > ?", 1).OrderBy("parent").
			QueryContext(ctx)
		s.must(err)
		for rows.Next() {
			var parent, count, sum int
			s.must(rows.Scan(&parent, &count, &sum))
			s.see("group", []int{parent, count, sum})
		}
		s.must(rows.Err())
		s.must(rows.Close())

		var name string
		s.fails("a row that is not there", build.Select("name").From("items").Where("id = ?", -1).QueryRowContext(ctx).Scan(&name))

		tx, err := s.db.BeginTx(ctx, nil)
		s.must(err)
		in := build.RunWith(tx)
		_, err = in.Update("items").Set("price", squirrel.Case("parent").When("1", "0").Else("price")).
			Where(squirrel.Expr("id IN (?)", squirrel.Select("id").From("items").Where("id < ?", 8))).ExecContext(ctx)
		if s.dialect == mysqlSQL {
			s.Log(err) // older servers refuse to read what they update
		}
		s.see("updated in the transaction", err == nil)
		_, err = in.Delete("items").Where(squirrel.GtOrEq{"id": 10}).ExecContext(ctx)
		s.must(err)
		s.must(in.Select("count(*)").From("items").QueryRowContext(ctx).Scan(&n))
		s.see("inside", n)
		s.must(tx.Rollback())
		s.must(build.Select("count(*)").From("items").QueryRowContext(ctx).Scan(&n))
		s.see("after the rollback", n)
	})
}

// squirrel's cache keeps each text as a statement of database/sql, which is prepared on every connection that runs it.
func TestSquirrelStatementCache(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		ctx := s.Context()
		s.exec("CREATE TABLE items (id int PRIMARY KEY, name varchar(50))", "INSERT INTO items VALUES (1, 'a'), (2, 'b')")
		cache := squirrel.NewStmtCache(s.db)
		defer func() { s.must(cache.Clear()) }()
		build := squirrel.StatementBuilder.RunWith(cache)
		if s.dialect == postgresSQL {
			build = build.PlaceholderFormat(squirrel.Dollar)
		}
		for range 3 {
			for id := range 3 {
				var name string
				err := build.Select("name").From("items").Where(squirrel.Eq{"id": id}).QueryRowContext(ctx).Scan(&name)
				if id == 0 {
					s.fails("nothing", err)
					continue
				}
				s.must(err)
				s.see("name", name)
			}
		}
		s.exec("ALTER TABLE items ADD COLUMN price int", "UPDATE items SET price = 7")
		var all []any
		rows, err := build.Select("*").From("items").OrderBy("id").QueryContext(ctx)
		s.must(err)
		for rows.Next() {
			var (
				id, price int
				name      string
			)
			s.must(rows.Scan(&id, &name, &price))
			all = append(all, id, name, price)
		}
		s.must(rows.Err())
		s.see("after DDL", all)
	})
}
