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
func (r scanRows) NextRow() error {
	l := r.lease
	if err := l.enter(); err != nil {
		return err
	}
	ok := false
	defer l.guard(&ok)
	err := r.scanner.NextRow()
	if err == nil {
		r.count++
	} else {
		err = r.stopped(err)
	}
	ok = true
	l.leave()
	return err
}

// ScanColumn scans a column of the present row.
func (r scanRows) ScanColumn(scan driver.ScanContext, index int, dest any) error {
	l := r.lease
	if err := l.enter(); err != nil {
		return err
	}
	ok := false
	defer l.guard(&ok)
	err := r.scanner.ScanColumn(scan, index, dest)
	ok = true
	l.leave()
	return err
}

func (r *rows) asDriverRows() driver.Rows {
	if scanner, ok := r.res.Rows.(driver.RowsColumnScanner); ok {
		return scanRows{r, scanner}
	}
	return r
}
