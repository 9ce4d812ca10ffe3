"""A project whose actors end as they are told to, and write down themselves what they did."""
