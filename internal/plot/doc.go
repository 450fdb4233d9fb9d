// Package plot draws values over time as steps, as paths of an SVG.
//
// The package refuses to know what the values are, and writes nothing but numbers and the classes that it is given.
package plot
