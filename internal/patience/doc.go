// Package patience asks a question on a goroutine of its own, for a caller who may leave before the answer comes.
//
// The package refuses to know what is asked, and what an answer means.
package patience
