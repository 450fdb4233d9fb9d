// Package docstest tries every code block of README.md and docs/*.md, as a reader would who copies it. It has no code but
// tests, in a module of its own because it reads YAML. A Go block may import what any module of go.work requires.
//
// The language of a block says what is done with it:
//
//	go        built and vetted; what needs to be around a fragment is written below
//	diff      its new lines are a Go fragment
//	sh        run by bash, all blocks of a page in one session, from the root of the repository
//	console   the same for lines after "$ ", up to the end of a here-document; the others have to be in what it prints
//	sql       run on PostgreSQL by a superuser, in the page's own database; statements with $1 are prepared
//	yaml json promql  parsed; Prometheus's own files are checked by promtool
//	dsn       read by ParseDSN, a line each; a comment begins with two spaces and --
//	text mermaid  nothing
//
// A block that is indented instead of fenced, and a language that is not in this list, are errors. An HTML comment before a
// block, invisible to a reader, says what the block leaves out:
//
//	<!-- check: in (ctx context.Context, db *sql.DB) error -->  a Go fragment is the body of such a function
//	<!-- check: run -->               a Go program is run as well, and its DATABASE_URL is the page's database; with serve,
//	                                  until the end of the page
//	<!-- check: serve 4004 -->        sh runs until the end of the page, and listens on that port; it finds it in PORT, too.
//	                                  A later block may take its place. Its process is in bin/4004.pid
//	<!-- check: status 1 -->          sh ends with that status
//	<!-- check: output -->            text has to be in what the block before printed
//	<!-- check: log 4004 -->          text has to be in what the server on that port prints, within ten seconds of the last command
//	<!-- check: maria -->             sql runs on MariaDB
//	<!-- check: rules -->             yaml is a file of rules for Prometheus; config its configuration
//	<!-- check: skip, reason -->      nothing is done
//
// A comment that begins with "check: go" or "check: sh", and goes on in the next lines, is a block that readers do not see:
// declarations for every Go fragment of the page, or commands in their turn.
//
// In what is printed … stands for anything, and a number but 0 for any number. Lines may lie in between.
//
// What a test cannot have as it is written is replaced: localhost:5432/shop by the page's database, with the roles shop and
// app, app:secret@tcp(localhost:3306)/shop by one on MariaDB, other ports of localhost by free ones, and bin/ by a
// temporary folder. "go test" and make are not run: the packages, the tests or benchmarks, and the flags have to exist.
// The comparison of benchmarks/ runs with -smoke, and writes to a temporary folder. apt-get simulates.
//
// A Go fragment is what does not begin with a package clause. Lines with … alone are left out, imports that are missing are
// added from the table in golang_test.go, variables need not be used, and a function that gives an error ends in "return nil".
package docstest
