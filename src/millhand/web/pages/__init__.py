"""The pages: each module loads one page as a frozen struct, from which the HTML and the JSON of the API are made."""
