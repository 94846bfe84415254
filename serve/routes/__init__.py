"""The routes of the API, one noun each."""
