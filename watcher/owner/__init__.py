"""Has the owner of a database exited? One module per probe; `judge` combines what they say."""
