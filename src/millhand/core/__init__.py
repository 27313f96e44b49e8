"""Values and rules without a database: jobs, args, options, retries, transitions, errors, settings of a client."""
