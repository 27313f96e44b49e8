"""A Django app with files in all the places where Django projects have them."""
