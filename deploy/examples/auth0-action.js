// An Action of Auth0 for the trigger "post-login": what somebody may do with panels, from metadata that only administrators change.
exports.onExecutePostLogin = async (event, api) => {
  if (event.resource_server?.identifier !== "https://panels.example.org") return;
  // an empty list, and not nothing: a token without the claim may do everything
  api.accessToken.setCustomClaim("panels", event.user.app_metadata?.panels ?? []);
};
