// Package schema is what ent generates the code in the folder above from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
)

// A User has posts and friends.
type User struct{ ent.Schema }

// Fields of a user.
func (User) Fields() []ent.Field {
	return []ent.Field{
		field.String("name").MaxLen(50).Unique(),
		field.Int("age").NonNegative(),
		field.JSON("settings", map[string]any{}).Optional(),
		field.Strings("tags").Optional(),
		field.Int("version").Default(0),
	}
}

// Edges of a user.
func (User) Edges() []ent.Edge {
	return []ent.Edge{edge.To("posts", Post.Type), edge.To("friends", User.Type)}
}
