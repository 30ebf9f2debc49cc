-- Tries the episodes that were given up again. An annotation that Git does not name is no drift.
local os = require("os")
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["annotationrun.dev/requested-at"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
