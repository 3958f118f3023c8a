module example.org/fanwire-ring

go 1.21
