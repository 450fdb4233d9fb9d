package localserver

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// An Account is a user of the operating system.
type Account struct{ uid, gid uint32 }

// Unprivileged is the first of the named accounts that exists, for servers that refuse to run as root. It is nil,
// the account of this process, where this process is not root's.
func Unprivileged(names ...string) (*Account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("group of user %s: %w", name, err)
		}
		return &Account{uint32(uid), uint32(gid)}, nil
	}
	return nil, fmt.Errorf("the server refuses to run as root, and there is no other user for it: none of %s exists",
		strings.Join(names, ", "))
}

func (a *Account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}
