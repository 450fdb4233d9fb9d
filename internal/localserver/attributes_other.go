//go:build !unix

package localserver

import "syscall"

// Without the shell of a Unix no server starts here, and the error says so. Tests can still use a server that runs
// elsewhere, so this package has to compile.
func (a *Account) attributes() *syscall.SysProcAttr { return nil }
