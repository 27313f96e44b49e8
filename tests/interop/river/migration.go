package main

import (
	"context"

	"github.com/riverqueue/river/rivermigrate"
)

func init() {
	operations["migrate_dry"] = with(migrateDry)
	operations["migrations"] = with(migrations)
	operations["validate_to"] = with(validateTo)
}

// migrations lists all versions that River knows, and whether each is applied; then what is applied and not known.
func migrations(ctx context.Context, p *program, params *params) (any, error) {
	migrator, err := p.migrator(params.Schema)
	if err != nil {
		return nil, err
	}
	existing, err := migrator.ExistingVersions(ctx)
	if err != nil {
		return nil, err
	}
	isApplied := map[int]bool{}
	for _, one := range existing {
		isApplied[one.Version] = true
	}
	var listed []map[string]any
	for _, one := range migrator.AllVersions() {
		listed = append(listed, map[string]any{"version": one.Version, "name": one.Name, "is_applied": isApplied[one.Version]})
	}
	return listed, nil
}

// migrateDry says which versions a migration would apply or take back.
func migrateDry(ctx context.Context, p *program, params *params) (any, error) {
	migrator, err := p.migrator(params.Schema)
	if err != nil {
		return nil, err
	}
	opts := &rivermigrate.MigrateOpts{DryRun: true, MaxSteps: params.MaxSteps, TargetVersion: params.Target}
	result, err := migrator.Migrate(ctx, rivermigrate.Direction(params.Direction), opts)
	if err != nil {
		return nil, err
	}
	planned := []int{}
	for _, version := range result.Versions {
		planned = append(planned, version.Version)
	}
	return planned, nil
}

// validateTo validates up to a version.
func validateTo(ctx context.Context, p *program, params *params) (any, error) {
	migrator, err := p.migrator(params.Schema)
	if err != nil {
		return nil, err
	}
	result, err := migrator.Validate(ctx, &rivermigrate.ValidateOpts{TargetVersion: params.Target})
	if err != nil {
		return nil, err
	}
	return map[string]any{"ok": result.OK, "messages": result.Messages}, nil
}
