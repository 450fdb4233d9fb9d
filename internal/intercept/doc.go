// Package intercept has every call into a connection go through interceptors written for sqlmw, the first outermost, with
// the contexts that they return for what follows from a call.
//
// The package refuses to know what stands behind the interceptors: a [Session] runs what the last of them asks for.
package intercept
