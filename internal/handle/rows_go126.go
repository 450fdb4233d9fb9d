//go:build !go1.27

package handle

import "database/sql/driver"

func (r *rows) asDriverRows() driver.Rows { return r }
