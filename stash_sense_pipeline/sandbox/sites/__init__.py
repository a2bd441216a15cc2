"""Ten reference sites of the sandbox world: pages in the shapes of real sites, about people who do not exist."""
