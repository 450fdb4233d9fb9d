// Package libpq knows what must be known of lib/pq, and in a few places of pgx and MySQL, beyond their APIs: which driver
// a connection belongs to, the code in an error, which failed dials a retry can mend, which errors leave lib/pq out of
// step, how its sockets are reached, and how its queries are cancelled.
//
// It looks such things up once, on a connection to nowhere, and compares the values it finds with those that it gave. A
// lookup that fails switches off the feature that needs it, and [Check] says so. So a lib/pq that has moved a field costs
// speed, and never a wrong answer.
//
// It refuses to know of pools, sessions, leases and SQL, and it never writes to what belongs to a driver.
package libpq
