"""The sections of the page: each a function from a build folder to what its part of the template shows."""
