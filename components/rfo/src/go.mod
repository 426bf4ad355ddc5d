module github.com/rfolabs/rfo

go 1.26.0
