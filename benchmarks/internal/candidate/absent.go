package candidate

// Absent lists what is left out, and why.
func Absent() []Absentee {
	return []Absentee{{
		Name: "DataDog/dd-trace-go/contrib/database/sql",
		Reason: "it does not build without weight: a program that only registers a driver with v2.0.0 of it has 62 " +
			"modules and 27 MB, where the same program on lib/pq alone has 1 module and 4 MB, and it reports to an " +
			"agent of its own rather than to OpenTelemetry",
	}, {
		Name: "aws/aws-advanced-go-wrapper",
		Reason: "`go get` could download none of its versions when this was written; weight is not the reason, for the same " +
			"program with pgx-driver v1.1.3, built from its source, has 9 modules and 20 MB, and no SDK of AWS",
	}}
}
