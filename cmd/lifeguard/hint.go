package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/lib/pq"
)

// explain is an error of the driver's as it may be shown, with what to change where that is known.
func (s *source) explain(err error) error {
	shown := s.redactor.Error(err)
	if hint := hint(err); hint != "" {
		return fmt.Errorf("%w; %s", shown, hint)
	}
	return shown
}

func hint(err error) string {
	var code string
	var postgresError *pq.Error
	var mysqlError *mysqldriver.MySQLError
	switch {
	case errors.As(err, &postgresError):
		code = string(postgresError.Code)
	case errors.As(err, &mysqlError):
		code = fmt.Sprint(mysqlError.Number)
	}
	var network *net.OpError
	switch {
	case errors.Is(err, pq.ErrSSLNotSupported):
		return "write sslmode=disable in the DSN if the network can be trusted"
	case strings.HasPrefix(err.Error(), "default addr for network"): // of a DSN such as user@host/database
		return "write user:password@tcp(host:3306)/database"
	case code == "28P01" || code == "28000" || code == "1045":
		return "write another user or password in the DSN"
	case code == "3D000" || code == "1049":
		return "write the name of a database that is there at the end of the DSN"
	case code == "53300" || code == "1040" || code == "1203":
		return "close connections, or raise the server's limit"
	case errors.As(err, &network) && network.Op == "dial":
		return "write the host and port of a running server in the DSN"
	case errors.Is(err, context.DeadlineExceeded):
		return "the server has not answered in time; write the host and port of one that does in the DSN"
	}
	return ""
}
