"""The web server: authentication, routes, sessions and the page."""
