"""The strictest Content-Security-Policy that lets a page load its own files."""

POLICY = "default-src 'self'"


def content_security_policy(get_response):
    """Let browsers run and load nothing but what comes in files from this site."""

    def respond(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond
