module github.com/go-lifeguard/lifeguard/drivertest

go 1.25.0

require github.com/go-lifeguard/lifeguard v0.0.0

replace github.com/go-lifeguard/lifeguard => ../
