package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
)

// A Post has an author.
type Post struct{ ent.Schema }

// Fields of a post.
func (Post) Fields() []ent.Field {
	return []ent.Field{field.String("title").MaxLen(100), field.Int("likes").Default(0)}
}

// Edges of a post.
func (Post) Edges() []ent.Edge {
	return []ent.Edge{edge.From("author", User.Type).Ref("posts").Unique()}
}
