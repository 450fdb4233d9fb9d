//go:build go1.27

package lifeguard

import "database/sql/driver"

// scanRows is rows for a driver that scans columns itself. It is a type of its own because database/sql changes how
// it reads every row as soon as it sees the interface.
type scanRows struct {
	*rows
	scanner driver.RowsColumnScanner
}

var _ driver.RowsColumnScanner = scanRows{}

func (r scanRows) NextRow() (err error) {
	if err := r.lease.enter(); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			r.lease.survive()
		}
	}()
	if err = r.scanner.NextRow(); err == nil {
		r.count++
		r.lease.leave()
	} else {
		err = r.stopped(err)
	}
	returned = true
	return err
}

func (r scanRows) ScanColumn(scan driver.ScanContext, index int, dest any) error {
	if err := r.lease.enter(); err != nil {
		return err
	}
	defer r.lease.leave()
	return r.scanner.ScanColumn(scan, index, dest)
}

func (r *rows) asDriverRows() driver.Rows {
	if scanner, ok := r.parent.(driver.RowsColumnScanner); ok {
		return scanRows{r, scanner}
	}
	return r
}
