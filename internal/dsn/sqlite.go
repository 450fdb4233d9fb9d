package dsn

import (
	"net/url"
	"strings"
)

// sqliteTarget returns the base name of the file.
func sqliteTarget(dsn string) Target {
	path, _, _ := strings.Cut(dsn, "?")
	if !pathStart.MatchString(dsn) && strings.Contains(path, ":") && strings.Contains(dsn, "@") ||
		keywordStart.MatchString(dsn) {
		return Target{} // user:password@… or password=… of some other system
	}
	if len(path) >= 5 && strings.EqualFold(path[:5], "file:") {
		path, _, _ = strings.Cut(path[5:], "#")
		plain, err := url.PathUnescape(path)
		if err != nil {
			return Target{}
		}
		path = plain
	}
	return Target{Database: path[strings.LastIndexAny(path, `/\`)+1:]}
}
