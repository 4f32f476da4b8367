package main

import "context"

func (b *bench) real(ctx context.Context) error { return nil }
