"""Sets the strictest Content-Security-Policy that the pages work with."""

POLICY = "default-src 'self'"


def content_security_policy(get_response):
    """Allow only scripts, styles and other files of this site, and no inline code."""

    def respond(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond
