package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/ecosystem/ent"
	"github.com/go-lifeguard/lifeguard/ecosystem/ent/post"
	"github.com/go-lifeguard/lifeguard/ecosystem/ent/user"
)

func (s *stage) ent() *ent.Client {
	name := map[string]string{postgresSQL: dialect.Postgres, mysqlSQL: dialect.MySQL, sqliteSQL: dialect.SQLite}[s.dialect]
	client := ent.NewClient(ent.Driver(entsql.OpenDB(name, s.db)))
	s.must(client.Schema.Create(s.Context()))
	s.must(client.Schema.Create(s.Context())) // nothing is left to do
	return client
}

func entUsers(s *stage, client *ent.UserClient, n int) []*ent.User {
	var creates []*ent.UserCreate
	for i := range n {
		creates = append(creates, client.Create().SetName(fmt.Sprint("user ", i)).SetAge(i%30).
			SetTags([]string{"a", fmt.Sprint(i)}).SetSettings(map[string]any{"n": i, "deep": map[string]any{"x": true}}))
	}
	users, err := client.CreateBulk(creates...).Save(s.Context())
	s.must(err)
	return users
}

func TestEnt(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		client, ctx := s.ent(), s.Context()
		hooked := 0
		client.User.Use(func(next ent.Mutator) ent.Mutator {
			return ent.MutateFunc(func(ctx context.Context, m ent.Mutation) (ent.Value, error) {
				if name, ok := m.Field(user.FieldName); ok && name == "refused" {
					return nil, errors.New("refused by a hook")
				}
				hooked++
				return next.Mutate(ctx, m)
			})
		})
		users := entUsers(s, client.User, 30)
		s.see("hooked", hooked)
		var posts []*ent.PostCreate
		for i := range 40 {
			posts = append(posts, client.Post.Create().SetTitle(fmt.Sprint("post ", i)).SetAuthor(users[i%7]).SetLikes(i))
		}
		s.must(client.Post.CreateBulk(posts...).Exec(ctx))
		s.must(client.User.UpdateOne(users[0]).AddFriends(users[1], users[2]).AddAge(5).Exec(ctx))
		s.fails("refused by a hook", client.User.Create().SetName("refused").SetAge(1).Exec(ctx))
		err := client.User.Create().SetName("user 1").SetAge(1).Exec(ctx)
		assert.True(s, ent.IsConstraintError(err), "%v", err)
		s.see("a duplicate", ent.IsConstraintError(err))
		err = client.User.Create().SetName("old").SetAge(-1).Exec(ctx)
		s.see("an age that is none", ent.IsValidationError(err))

		found, err := client.User.Query().Where(user.AgeLT(4), user.HasPosts()).
			WithPosts(func(q *ent.PostQuery) { q.Where(post.LikesGT(8)).Order(ent.Asc(post.FieldLikes)) }).WithFriends().
			Order(ent.Asc(user.FieldID)).All(ctx)
		s.must(err)
		for _, u := range found {
			s.see("user", u)
		}
		var sums []struct {
			Author int `sql:"user_posts"`
			Count  int `sql:"count"`
			Sum    int `sql:"sum"`
		}
		s.must(client.Post.Query().Where(post.HasAuthor()).Modify(func(sel *entsql.Selector) {
			sel.Select(entsql.As(sel.C(post.AuthorColumn), "user_posts"), entsql.As("COUNT(*)", "count"), entsql.As("SUM(likes)", "sum")).
				GroupBy(sel.C(post.AuthorColumn)).OrderBy(sel.C(post.AuthorColumn))
		}).Scan(ctx, &sums))
		s.see("sums", sums)
		titles, err := users[3].QueryPosts().Order(ent.Desc(post.FieldID)).Limit(2).Select(post.FieldTitle).Strings(ctx)
		s.must(err)
		s.see("titles", titles)
		_, err = client.User.Query().Where(user.Name("nobody")).Only(ctx)
		s.see("nobody", ent.IsNotFound(err))
		_, err = client.User.Query().Only(ctx)
		s.see("too many", ent.IsNotSingular(err))
		deleted, err := client.Post.Delete().Where(post.LikesLT(10)).Exec(ctx)
		s.must(err)
		s.see("deleted", deleted)
	})
}

func TestEntOnConflict(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		client, ctx := s.ent(), s.Context()
		entUsers(s, client.User, 3)
		var creates []*ent.UserCreate
		for i := range 5 {
			creates = append(creates, client.User.Create().SetName(fmt.Sprint("user ", i)).SetAge(40+i))
		}
		conflict := []entsql.ConflictOption{entsql.ConflictColumns(user.FieldName)}
		if s.dialect == mysqlSQL {
			conflict = nil
		}
		s.must(client.User.CreateBulk(creates...).OnConflict(conflict...).Update(func(u *ent.UserUpsert) {
			u.UpdateAge()
			u.AddVersion(1)
		}).Exec(ctx))
		all, err := client.User.Query().Order(ent.Asc(user.FieldName)).All(ctx)
		s.must(err)
		for _, u := range all {
			s.see("user", []any{u.Name, u.Age, u.Version, u.Tags})
		}
	})
}

func TestEntTransactions(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		client, ctx := s.ent(), s.Context()
		entUsers(s, client.User, 3)
		ends := []string{}
		tx, err := client.Tx(ctx)
		s.must(err)
		tx.OnCommit(func(next ent.Committer) ent.Committer {
			return ent.CommitFunc(func(ctx context.Context, tx *ent.Tx) error {
				ends = append(ends, "commit")
				return next.Commit(ctx, tx)
			})
		})
		query := tx.User.Query().Where(user.Name("user 1"))
		if s.dialect != sqliteSQL {
			query = query.ForUpdate()
		}
		one, err := query.Only(ctx)
		s.must(err)
		s.must(tx.User.UpdateOne(one).SetAge(50).Exec(ctx))
		s.must(tx.Commit())
		s.see("ends", ends)
		s.fails("Commit again", tx.Commit())

		tx, err = client.Tx(ctx)
		s.must(err)
		s.must(tx.User.Create().SetName("undone").SetAge(1).Exec(ctx))
		// What runs on a client runs in its transaction too; ent has no nested ones.
		_, err = tx.Client().Tx(ctx)
		s.fails("a transaction in a transaction", err)
		err = tx.User.Create().SetName("user 1").SetAge(1).Exec(ctx)
		s.see("a duplicate", ent.IsConstraintError(err))
		_, err = tx.User.Query().Count(ctx)
		s.see("goes on", err == nil) // not on PostgreSQL
		s.must(tx.Rollback())
		names, err := client.User.Query().Order(ent.Asc(user.FieldName)).Select(user.FieldName).Strings(ctx)
		s.must(err)
		s.see("names", names)
	})
}

// A call on the client inside of a transaction takes a second connection.
func TestEntHandleInTransaction(t *testing.T) {
	timeout := culprits(t, onPGX, 1, func(s *stage) error {
		client := s.ent()
		tx, err := client.Tx(s.Context())
		s.must(err)
		defer tx.Rollback()
		s.must(tx.User.Create().SetName("a").SetAge(1).Exec(s.Context()))
		return client.User.Create().SetName("b").SetAge(1).Exec(s.Context()) // client, not tx
	})
	require.Len(t, timeout.Holders, 1)
	assert.Contains(t, timeout.Error(), "idle in a transaction")
}
