package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

// parameter is one of lifeguard's, as it will be in force.
type parameter struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"` // DSN, default, or derived
}

// unset is what the zero value of a parameter means that no DSN can have.
var unset = map[string]string{"fleet_limit": "none", "fleet_name": "the database's"}

// parameters lists the fields of the configuration. A value that is neither the DSN's nor the default was derived from
// the DSN: the limit of idle connections, the pool's name, the lifetimes on SQLite.
func (s *source) parameters() (all []parameter) {
	written := map[string]bool{}
	for _, setting := range dsn.Split(s.text).Settings {
		written[setting.Name] = true
	}
	now, normal := reflect.ValueOf(s.config), reflect.ValueOf(lifeguard.DefaultConfig())
	for i := range now.NumField() {
		p := parameter{Name: parameterName(now.Type().Field(i).Name), Value: shown(now.Field(i).Interface()), From: "default"}
		if word, ok := unset[p.Name]; ok && now.Field(i).IsZero() {
			p.Value = word
		}
		switch {
		case written[p.Name]:
			p.From = "DSN"
		case !now.Field(i).Equal(normal.Field(i)):
			p.From = "derived"
		}
		all = append(all, p)
	}
	return all
}

// parameterName gives the DSN's name of a field of lifeguard.Config.
func parameterName(field string) string {
	if field == "PgBouncer" {
		return "pgbouncer"
	}
	var b strings.Builder
	for i, r := range field {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func shown(v any) string {
	if d, ok := v.(time.Duration); ok {
		return period(d)
	}
	return fmt.Sprint(v)
}

// period writes a duration as people do: 30m, not 30m0s.
func period(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
