"""The page: what is hot, why nothing happens, and what was recovered, for a person with a browser.

It is loaded only where `metrics.page` is on, it looks at nothing but what the service knows anyway, and it changes
nothing. `server` is the listener, `app` says what is where, `guard` who may ask, `view` what is shown, `stream` keeps
those up to date who look at it.
"""
