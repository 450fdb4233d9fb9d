// Package sqltext decides what lifeguard shows of a query in errors, logs,
// spans and pages: the text with every literal replaced by a question mark,
// and, in the package summary, a few words.
//
// A literal that survives is a customer's data in a log, so wherever the text
// alone cannot tell where a literal ends, because that depends on a setting of
// the server (standard_conforming_strings, NO_BACKSLASH_ESCAPES, ANSI_QUOTES)
// or on a database the package does not know, everything from that point on
// counts as one. The same holds for whatever is left open at the end of a
// query. A text that hides too much is a nuisance, one that shows too much
// cannot be taken back.
//
// The package tells tokens apart, no more. It refuses to parse SQL, to judge
// whether a query is valid, and to rewrite one for execution: what it returns
// is for reading. It is meant for slow and failed operations, and
// looks at no more than the first 64 KiB of a query.
//
// # Why not a library
//
// github.com/DataDog/go-sqllexer v0.2.6 (MIT, no dependencies outside its
// tests) was tried first, its output compared literal by literal. It leaves
// literals and comments in the text in ways that its token stream gives no
// means to mend, because the boundaries of its tokens are wrong already:
//
//   - an operator swallows the start of a comment behind it: the comments in
//     a=/* secret */1 and a=-- secret become operators and names;
//   - comments do not nest: the end of /* a /* b */ secret */ is taken for SQL;
//   - 1_000_777 is the number 1 and the name _000_777, 0b101 the number 0 and
//     the name b101;
//   - in SQLite '\' does not end at its second quote, so the next string turns
//     inside out and is shown;
//   - unterminated $tag$ strings, quoted names and comments are returned as
//     they stand;
//   - there is no reading for a database it was not told about that errs on the
//     safe side, nor for a server with other than the default settings.
//
// Its tables and verbs are two separate sets without order or nesting, and
// count the names in EXTRACT(year FROM x), IS DISTINCT FROM x and FROM STDIN
// as tables, so a summary could not be made of them either.
package sqltext
