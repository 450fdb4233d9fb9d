//go:build go1.27

package handle

import "database/sql/driver"

// scanRows is rows for a driver that scans columns itself. It is a type of its own because database/sql changes how
// it reads every row as soon as it sees the interface.
type scanRows struct {
	*rows
	scanner driver.RowsColumnScanner
}

var _ driver.RowsColumnScanner = scanRows{}

// NextRow fetches a row.
func (r scanRows) NextRow() error { return r.next(r.scanner.NextRow) }

// ScanColumn scans a column of the present row.
func (r scanRows) ScanColumn(scan driver.ScanContext, index int, dest any) (err error) {
	if gone := r.lease.call(func() { err = r.scanner.ScanColumn(scan, index, dest) }); gone != nil {
		return gone
	}
	return err
}

func (r *rows) asDriverRows() driver.Rows {
	if scanner, ok := r.res.Rows.(driver.RowsColumnScanner); ok {
		return scanRows{r, scanner}
	}
	return r
}
