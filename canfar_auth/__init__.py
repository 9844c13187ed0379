"""Who a user is: sign-in, claims, groups."""
