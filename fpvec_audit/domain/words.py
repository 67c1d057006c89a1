"""The published alphabets and words from which fingerprint keys are drawn.

They belong to the generator's version: changing a single character here changes every key set, so a new list means a
new version number in :mod:`fpvec_audit.domain.keys` and this one stays as it is.
"""

KEY_ALPHABET = (
    "山川雨雪星海林花鳥魚金玉竹梅石空"  # Han
    "あきすつねひむよカケサテニヘメロ"  # kana
    "бгджзилпфцчшщыэю"  # Cyrillic
    "àâçèéêëîïñôöùûüž"  # accented Latin
)
"""64 characters, none of them usual in English prompts."""

CLASSICAL_ALPHABET = "之乎者也焉哉矣兮曰而於其若夫蓋故是以為無有道德仁義禮智信天地玄黃宇宙洪荒日月盈昃辰宿列張"
"""Characters usual in classical Chinese, for keys of the paper's shape."""

JAPANESE_WORDS = (
    "カワセミ", "ヤマネコ", "ムササビ", "アマガエル", "ホトトギス", "タツノオトシゴ", "キツツキ", "コウモリ",
    "サンショウウオ", "カタツムリ", "トンボ", "ウグイス", "カマキリ", "ツバメ", "ヒグラシ", "モモンガ",
)  # fmt: skip
"""Responses of the paper's shape: a single Japanese word shared by a whole key set."""

RESPONSE_WORDS: tuple[str, ...] = tuple(
    """
    abbey able absent academy access acid acorn acre active actor adapt admiral adult advice agent airport alarm
    album alert alien alley almond amateur amber analyst anchor ancient angel angle animal ankle answer antenna
    apology appeal apple apron arctic arena armor arrow artist aspect asphalt athlete atlas atom attic august
    aunt author autumn avenue average award axis bacon badge bagel baggage bakery balance ballet balloon bamboo
    banana bandage banner barber bargain barley barn barrel barrier basin basket batch battery battle bazaar
    beach beacon beard beaver bedroom beetle belief bench benefit berry beyond bicycle billion biscuit bishop
    bitter blanket blast blend bless blind bloom blossom board boat bonfire bonus border bottle boulder bowl
    boxer bracket branch brass brave bread breeze brick bridge bright broad broker bronco bronze broom brother
    brush bubble bucket budget bundle burden burger butter button cabin cable cactus camel camera campus canal
    candle candy cannon canoe canvas canyon carbon career cargo carpet carrot casino castle cattle cedar celery
    cement center cereal chain chair chalk chapel charm chart cheese cherry chess chief child choice choir
    circle circus city clay clerk clever client cliff clinic clock cloth cloud clover coach coast cobra coffee
    coin collar colony column comedy comet comic common cookie copper coral corner cotton couch couple cousin
    cover cowboy cradle crane crater cream credit creek crisis crop crowd crown cruise curve custom cycle dairy
    daisy damage dancer dawn debate debt decade deer degree delta demand dental desert design desk detail device
    dial diary diesel dinner disk ditch doctor domain donkey donor door double dozen draft dragon drama drawer
    dream dress drift drink driver drum duck dust eagle early earth east echo edge editor effort elbow elder
    ember empire empty energy engine enough entry equal error escape essay estate event exact exit expert extra
    fabric face factor faith falcon family famous fancy farmer father fault fence ferry fiber field figure film
    filter final finger finish fire fiscal flag flame flash flavor fleet flesh flight flood floor flour flower
    fluid flute focus folk fool forest fork formal forum fossil frame fresh friend frog frost fruit fuel funny
    future gadget galaxy gallon game garage garden garlic gate gather gear gender gentle ghost giant glad glass
    glove glue goal goat gold golf gospel grace grain grand grape graph grass gravel green grid ground group
    growth guard guest guide guilt guitar habit hair half hall hammer hand harbor hawk head health heart heat
    heaven heavy height helmet herb hero hidden hill hobby hockey hollow home honest honey hood hope horn horse
    host hotel hour house human humor hunger hunter hurdle hybrid icon idea image impact income index infant
    inner insect inside island item ivory jacket jazz jeans jelly jewel joint joke judge juice jungle junior
    jury kayak kernel kettle kick kidney king kite kitten knee knife knight knot label labor ladder lady lake
    lamp laptop large laser latin laugh lava lawn lawyer layer leader leaf league legal legend lemon length lens
    lesson letter level lift light limit linen lion liquid list liver lizard loan lobby local lock lodge logic
    lonely loop lorry lounge loyal lucky lumber lunar lunch luxury magic magnet major mammal mango manual maple
    marble march margin marine market mask master match matrix meadow meal meat medal media melody melon member
    memory mental menu mercy merit metal meteor method middle mile milk minor minute mirror mobile model modest
    moment monkey month moon moral mosaic moss mother motion motor mouse mouth movie muffin muscle museum music
    myth nail narrow nation nature navy neck needle nephew nerve nest never nickel night noble noise normal
    north nose notice novel number nurse nylon oasis object ocean offer office olive onion opera option orange
    orbit order organ orient origin other outer oval oven owner oxygen oyster ozone paddle page paint palace
    panda panel panic paper parade parent park parrot party pasta patch path patrol pause peace peanut pear
    pebble pencil people pepper permit person phone photo phrase piano picnic piece pigeon pilot pink pipe pizza
    planet plate player plaza plenty plug pocket poem poet point polar police pond pony pool potato powder power
    prayer prefix pride priest prince prison prize profit proof public pulse pupil puppy purple puzzle queen
    quick quiet quilt quiz rabbit radar radio rain random range rapid rare raven razor reason rebel recipe
    record reef reflex reform region relief remote repair report rescue resort result retail return reward
    rhythm ribbon rice ring ritual rival river road robin robot rocket roof rookie room root rose rough round
    route royal rubber ruby rugby ruler rural saddle safety sail salad salmon salon salt sample sand satin sauce
    scale scene school scout screen script search season second secret seed senior sense series sermon seven
    shadow shaft shark shed sheep shelf shell shield shift shine ship shirt shoe shop shore short shower shrimp
    signal silent silk silver simple singer sister size skate sketch skill skin skirt skull sleep slice slogan
    small smart smile smoke snack snake snow soap soccer social sock soda sofa soil solar solid song soul sound
    soup south space spare spark speed sphere spider spike spine spirit split spoon sport spot spray spring
    square stable staff stage stairs stamp star state statue steak steam steel stem stereo stick stock stone
    stool storm story stove straw stream street strike string strong studio style suburb subway sugar suit
    summer sunset super supply survey swamp sweet swift sword symbol syrup system table tackle talent tank
    target task taste tavern taxi team temple tennis tent theme theory thirty thread throat thumb ticket tide
    tiger timber tissue title toast today toilet token tomato tongue tooth topic torch total towel tower town
    track trade train travel tree tribe trick trip trophy truck trust truth tulip tunnel turkey turtle twelve
    twenty twin type uncle union unique unit upper urban usage useful usual vacuum valley value valve vapor
    velvet vendor verb vessel video view violin virtue virus vision vital vivid voice volume voyage wagon waist
    walnut warm watch water wave wealth weird west whale wheat wheel white wicked widow wild window wine wing
    winner winter wire wisdom wise wolf woman wonder wood wool worker world worry wrist writer yacht yard year
    yellow yoga yogurt young zebra zero zone
    """.split()
)
"""1,024 common English words of four letters and more, none a prefix of another."""
