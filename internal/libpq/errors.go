package libpq

import (
	"errors"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/lib/pq"
)

// Code gives the SQLSTATE in err, or MySQL's error number; "" if there is none.
func Code(err error) string { return first(err, codeOf) }

// Status gives what the database calls an error: its Code, or SQLite's number; "" if there is none.
func Status(err error) string {
	if code := Code(err); code != "" {
		return code
	}
	return first(err, sqliteCode)
}

// first gives the first answer that is not empty, of err and all that it wraps.
func first(err error, ask func(error) string) string {
	for err != nil {
		if answer := ask(err); answer != "" {
			return answer
		}
		if several, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range several.Unwrap() {
				if answer := first(e, ask); answer != "" {
					return answer
				}
			}
			return ""
		}
		err = errors.Unwrap(err)
	}
	return ""
}

// codeOf is Code of one error of a chain. go-sql-driver/mysql has its number in a field, and is not imported for that.
func codeOf(err error) string {
	if e, ok := err.(interface{ SQLState() string }); ok { // lib/pq, pgx and several others
		return e.SQLState()
	}
	v := reflect.Indirect(reflect.ValueOf(err))
	if v.Kind() == reflect.Struct && v.Type().Name() == "MySQLError" {
		if n := v.FieldByName("Number"); n.IsValid() && n.CanUint() {
			return strconv.FormatUint(n.Uint(), 10)
		}
	}
	return ""
}

// sqliteCode asks for the method that modernc.org/sqlite has, and for the field that mattn/go-sqlite3 has.
func sqliteCode(err error) string {
	if e, ok := err.(interface{ Code() int }); ok {
		return strconv.Itoa(e.Code())
	}
	if !strings.HasSuffix(packageOf(err), "/go-sqlite3") {
		return ""
	}
	if v := reflect.Indirect(reflect.ValueOf(err)); v.Kind() == reflect.Struct {
		if n := v.FieldByName("ExtendedCode"); n.IsValid() && n.CanInt() {
			return strconv.FormatInt(n.Int(), 10)
		}
	}
	return ""
}

// SentNothing gives what lib/pq hides in the mark of errors that it met before anything was sent; other errors it returns
// as they are.
func SentNothing(err error) error {
	f := known()
	if f.mark == nil || reflect.TypeOf(err) != f.mark {
		return err
	}
	v := reflect.ValueOf(err)
	if v.IsNil() {
		return err
	}
	if inside, ok := v.Elem().FieldByIndex(f.cause).Interface().(error); ok {
		return inside
	}
	return err
}

// outOfStep are the texts of errors upon which lib/pq 1.12 goes on with a connection of whose reply it has left a part
// unread: an error of the server's longer than the 30,000 bytes that it reads, a message that it does not expect among
// rows (COPY TO STDOUT after another statement), and two that only follow from such a one.
var outOfStep = []string{
	"pq: server error: ", "pq: unexpected message after execute: ", "unexpected ReadyForQuery", "unexpected command tag ",
}

// OutOfStep says whether an error of lib/pq's means that the rest of a reply is still to come. It would be the answer to
// the next question, so the connection must be closed before it is asked one.
func OutOfStep(err error) bool {
	if err == nil {
		return false
	}
	var whole *pq.Error // read to its end, whatever its text is
	if errors.As(err, &whole) {
		return false
	}
	text := err.Error()
	for _, part := range outOfStep {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// ReadOnly says whether a server refused a write because it is read-only now: a primary that was demoted. MySQL's 1290
// is about other options, too.
func ReadOnly(err error) bool {
	switch Code(err) {
	case "25006", "1836":
		return true
	case "1290":
		return strings.Contains(err.Error(), "read-only")
	}
	return false
}

// PasswordRefused says whether a server refused the user or the password: PostgreSQL's 28P01 and 28000, MySQL's 1045.
func PasswordRefused(err error) bool {
	switch Code(err) {
	case "28P01", "28000", "1045":
		return true
	}
	return false
}

// WantsStandby says whether a DSN asks for a server that is read-only.
func WantsStandby(dsn string) bool { return standby.MatchString(dsn) }

var standby = regexp.MustCompile(`target_session_attrs\s*=\s*'?(read-only|standby|prefer-standby|any-standby)`)
