// Package datadog runs the suite of the libraries that wrap a driver for DataDog's dd-trace-go. It has no code but tests, in
// a module of its own because that library brings 180 packages.
package datadog
